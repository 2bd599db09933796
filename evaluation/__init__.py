"""What stands on top of training: published weights as bundles of ours."""
