"""How a file of weights becomes a stain: what is known of a generator, how it is tiled, and the network itself."""
