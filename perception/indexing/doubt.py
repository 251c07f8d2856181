"""Answers that explain too little to be sure of, however unlikely chance is to give them.

What was measured: 20 crystals of the zoo on `lab` and `bm32`, 24 spoiled lists each (none, 60 %, and twice 80 % of the spots
missing; 0, 60 % and 100 % false), asked for the right crystal (960 lists) and for wrong ones with other lattices (3,600).
Without any rule 916 right answers have a confidence of 0.95 at least, and so have 163 wrong ones.
"""

from __future__ import annotations

#: Lattices with common axes explain a part of each other's patterns better than chance does (up to 0.48 of the spots was
#: seen), but badly: each explained spot carries less than ``POOR`` of what a spot in place carries. An answer that explains
#: less than ``FEW`` of the spots, shows less than ``RARE`` of those it predicts and does so poorly gets
#: ``DOUBTFUL`` at best. Measured: 155 of the 163 wrong answers, and 153 of the right ones; these are a third of the 451
#: with 80 % missing, and none of the 465 others. (At 0.68: 144 of the wrong, 60 of the right.)
FEW, RARE, POOR, DOUBTFUL = 0.48, 0.6, 0.72, 0.9

#: So does one that explains less than ``FEW`` and stands alone, however well it fits: a zone that two lattices share lies
#: in place (FePS3 on a list of germanium: 8 of 97 spots and of 77 predicted). The geometric mean of both shares is below
#: ``ALONE``. Measured: 2 of the 8 wrong answers that are left, and none of the 916 right ones, which have 0.145 at least.
#: On `koala`, which nothing was set by (160 and 400 lists), none of 160 right ones and the one wrong answer that is left.
ALONE = 0.14


def is_doubtful(explained: int, n_spots: int, visible: float, score: float, carried: float) -> bool:
    """Whether an answer explains too little.

    Parameters
    ----------
    explained, n_spots
        Spots explained, of so many.
    visible
        Spots that it predicts.
    score
        Its log-likelihood ratio to "all spots are false".
    carried
        What one spot in place carries of that.
    """
    few = explained < FEW * n_spots
    poor = explained < RARE * visible and score < POOR * carried * explained
    alone = explained**2 < ALONE**2 * n_spots * visible
    return few and (poor or alone)
