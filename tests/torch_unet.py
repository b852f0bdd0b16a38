"""The published U-Net's modules in PyTorch, by its state dict's names and its equations, to be timed against ours."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def _norm(c):
  return nn.GroupNorm(32, c)


def _film(h, projected):
  scale, shift = projected[:, :, None, None].chunk(2, dim=1)
  return h * (1 + scale) + shift


class Block(nn.Module):
  def __init__(self, c, out, d, dropout, resize=None):
    super().__init__()
    self.resize = resize
    self.in_layers = nn.Sequential(_norm(c), nn.SiLU(), nn.Conv2d(c, out, 3, padding=1))
    self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * out))
    self.audio_emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * out))
    self.out_layers = nn.Sequential(_norm(out), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(out, out, 3, padding=1))
    self.skip_connection = nn.Conv2d(c, out, 1) if c != out else nn.Identity()

  def _resized(self, x):
    if self.resize == 'down':
      return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2, mode='nearest') if self.resize == 'up' else x

  def forward(self, x, noise, audio):
    h = self._resized(F.silu(self.in_layers[0](x)))
    h = self.in_layers[2](h)
    h = _film(_film(self.out_layers[0](h), self.emb_layers(noise)), self.audio_emb_layers(audio))
    for layer in self.out_layers[1:]:
      h = layer(h)
    return self.skip_connection(self._resized(x)) + h


class Attention(nn.Module):
  def __init__(self, c, head_channels):
    super().__init__()
    self.heads = c // head_channels
    self.norm = _norm(c)
    self.qkv = nn.Conv1d(c, 3 * c, 1)
    self.proj_out = nn.Conv1d(c, c, 1)

  def forward(self, x, *_):
    b, c, h, w = x.shape
    flat = x.reshape(b, c, h * w)
    qkv = self.qkv(self.norm(flat)).reshape(b * self.heads, -1, h * w)
    q, k, v = qkv.chunk(3, dim=1)
    scale = q.shape[1] ** -0.25
    weights = torch.einsum('bct,bcs->bts', q * scale, k * scale).softmax(dim=-1)
    out = torch.einsum('bts,bcs->bct', weights, v).reshape(b, c, h * w)
    return (flat + self.proj_out(out)).reshape(b, c, h, w)


class Stage(nn.Sequential):
  def forward(self, x, noise, audio):
    for layer in self:
      x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, noise, audio)
    return x


class UNet(nn.Module):
  """Keyword arguments are the published `unet` settings; forward(x [b, 9, h, w], gamma [b], audio [b, 1024])."""

  def __init__(
    self,
    *,
    in_channel,
    out_channel,
    inner_channel,
    channel_mults,
    attn_res,
    num_head_channels,
    res_blocks,
    dropout,
    image_size,
    use_audio_emb=None,
  ):
    super().__init__()
    self.width, d = inner_channel, 4 * inner_channel
    factors = [image_size // pixels for pixels in attn_res]
    self.cond_embed = nn.Sequential(nn.Linear(inner_channel, d), nn.SiLU(), nn.Linear(d, d))
    self.audio_cond_embed = nn.Sequential(nn.Linear(1024, d), nn.SiLU(), nn.Linear(d, d))
    c, channels = inner_channel, [inner_channel]
    self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(in_channel, c, 3, padding=1))])
    for level, multiplier in enumerate(channel_mults):
      for _ in range(res_blocks):
        layers = [Block(c, multiplier * inner_channel, d, dropout)]
        c = multiplier * inner_channel
        if 2**level in factors:
          layers.append(Attention(c, num_head_channels))
        self.input_blocks.append(Stage(*layers))
        channels.append(c)
      if level != len(channel_mults) - 1:
        self.input_blocks.append(Stage(Block(c, c, d, dropout, 'down')))
        channels.append(c)
    self.middle_block = Stage(Block(c, c, d, dropout), Attention(c, num_head_channels), Block(c, c, d, dropout))
    self.output_blocks = nn.ModuleList()
    for level, multiplier in reversed(list(enumerate(channel_mults))):
      for i in range(res_blocks + 1):
        layers = [Block(c + channels.pop(), multiplier * inner_channel, d, dropout)]
        c = multiplier * inner_channel
        if 2**level in factors:
          layers.append(Attention(c, num_head_channels))
        if level and i == res_blocks:
          layers.append(Block(c, c, d, dropout, 'up'))
        self.output_blocks.append(Stage(*layers))
    self.out = nn.Sequential(_norm(c), nn.SiLU(), nn.Conv2d(c, out_channel, 3, padding=1))

  def forward(self, x, gamma, audio):
    half = self.width // 2
    angles = gamma[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)
    noise = self.cond_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
    audio = self.audio_cond_embed(audio)
    waiting = []
    for stage in self.input_blocks:
      x = stage(x, noise, audio)
      waiting.append(x)
    x = self.middle_block(x, noise, audio)
    for stage in self.output_blocks:
      x = stage(torch.cat([x, waiting.pop()], dim=1), noise, audio)
    return self.out(x)
