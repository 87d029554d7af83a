"""Which networks a study compares, and the contrasts between them."""
