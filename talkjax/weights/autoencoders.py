"""The autoencoder that `config.latents` describes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from talkjax.nn.autoencoder import Autoencoder
from talkjax.weights import packaged

_FIELDS = {f.name for f in dataclasses.fields(Autoencoder)} - {'dtype', 'parent', 'name'}


def network(latents: Mapping[str, Any], **fields: Any) -> Autoencoder:
  """The network of `config.latents`; fields that it lacks, as in older workdirs, are those of Stable Diffusion.

  Args:
    latents: values of the fields of `Autoencoder`, and others.
    **fields: in their place.
  """
  named = {name: value for name, value in latents.items() if name in _FIELDS}
  return Autoencoder(**{k: tuple(v) if isinstance(v, list) else v for k, v in (named | fields).items()})


def packaged_network(name: str) -> Autoencoder:
  """That of a network of `talkjax.weights.packaged`."""
  return network(packaged.about(name)['latents'])
