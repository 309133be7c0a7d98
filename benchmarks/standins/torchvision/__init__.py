"""What a peer's script asks of torchvision, which has no build for CPUs alone."""
