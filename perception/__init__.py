"""From frames to knowledge: readers, background, spots, indexing, and the observation that an agent sees."""
