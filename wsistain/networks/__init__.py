"""Networks, one file each, in plain torch."""
