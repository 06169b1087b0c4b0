"""What leaves a model that must not: canaries planted in mail, and the privacy document."""
