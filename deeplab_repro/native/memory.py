"""How maps lie in memory."""

import torch


def memory_format(x: torch.Tensor) -> torch.memory_format:
    """The format of results made from x: channels last where x (N, C, H, W) is stored so."""
    last = torch.channels_last
    if x.dim() == 4 and x.is_contiguous(memory_format=last) and not x.is_contiguous():
        return last
    return torch.contiguous_format
