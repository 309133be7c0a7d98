"""The embedded demo: what it is learnt from and what learns it."""

import detsd as detsd  # it knows which of transformers' warnings do not matter here
