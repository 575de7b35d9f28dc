"""``pydelta demo``: eight fine-tunes into one store, and every one back from the file, on real data."""
