"""Image folders, ``<folder>/<split>/<class>/<image>``: checked, prepared from known sets, reported on."""
