"""OpenAI's dialects: the same engine and sessions, in OpenAI's names and shapes."""
