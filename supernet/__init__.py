"""Search spaces, the weight-sharing network, its training and evaluation."""
