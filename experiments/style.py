"""The colours and markers that pictures share."""

from __future__ import annotations

# Okabe and Ito's palette, which colour-blind readers tell apart; markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "os^Dv<>p"
