"""What goes over the network: EST server and device gateway."""
