"""OpenAI's realtime socket: sessions as everywhere, in OpenAI's events."""
