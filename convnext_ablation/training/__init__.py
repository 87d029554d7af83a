"""Training and evaluation. Bad input raises `UserError`; docstrings name the other exceptions."""
