"""What a data set would write for one image."""

import io


def encoded(dataset, key):
    file = io.BytesIO()
    dataset.encode(key, file)
    return file.getvalue()
