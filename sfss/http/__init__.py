"""What the tiers' own web pages share: page shell, charts, metrics."""
