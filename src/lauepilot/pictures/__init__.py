"""Pictures of patterns: PNG by matplotlib, and one page of HTML to look into."""
