"""What several tests share: slow and obvious references, small settings, a browser, a C loader."""
