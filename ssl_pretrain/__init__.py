"""Stage 1: from real clips only, each modality's student learns to predict what the other's teacher makes of it."""
