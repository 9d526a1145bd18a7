"""The server of SIB: takes events in, keeps them, and tells hosts what to look for."""
