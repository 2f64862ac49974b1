"""SGD, Adam and AdamW whose step and mask are one pass over memory.

They are torch's optimizers in all but the step: same arguments, same ``state_dict``, which either loads from the
other. A sparsifier that is given one hands it the masks, and ``s.step()`` then costs what an unmasked fused step does::

    optimizer = glyptic.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    s = glyptic.sparsity.RigL(model, optimizer, density=0.1, total_steps=T)
"""

from ._masked import SGD, Adam, AdamW, MaskedOptimizer

__all__ = ["SGD", "Adam", "AdamW", "MaskedOptimizer"]
