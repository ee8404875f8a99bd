"""What several workers share in Redis: sessions that one takes over from another."""
