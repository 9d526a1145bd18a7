"""The SIB server: takes events home, keeps them, and passes them on."""
