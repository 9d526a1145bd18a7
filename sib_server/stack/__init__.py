"""The programs beside the server: their configuration, health and backup."""
