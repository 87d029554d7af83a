"""Image folders, ``<folder>/<split>/<class>/<image>``: preparing, checking and auditing them."""
