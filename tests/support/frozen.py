"""The last that a fork server imports: what it holds is no business of the garbage collector of a process it forks.

In: nothing. Out: a collection in such a process walks through its own objects, not through torch and diffusers.
"""

import gc

gc.freeze()
