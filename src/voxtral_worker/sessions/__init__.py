"""Conversations: events, turns and history. Pure: it gets the time and returns effects."""
