"""Two slides of one block: registered, looked at, and cut into patches that lie over each other."""
