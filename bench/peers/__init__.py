"""What anybody would write in the place of sfss, in some thirty lines each: programs that bench/rivals.py starts."""
