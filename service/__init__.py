"""The scoring service: models from a store, scores over a network."""
