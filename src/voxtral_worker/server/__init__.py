"""The network floor: the only place that imports aiohttp."""
