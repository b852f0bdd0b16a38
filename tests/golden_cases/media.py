"""Golden cases of the media room: the published mel front end."""

import numpy as np

from talkjax.media import mel


def _dve_mel(case):
  num_frames = case.config['num_frames']
  mel_db = mel.log_mel(case.inputs['waveform'], num_frames)
  return {
    'mel_db': mel_db,
    'audio': mel.frame_windows(mel_db, case.inputs['frames']),
    'fitted_length': np.int32(num_frames * mel.SAMPLES_PER_FRAME - 1),
  }


CHECKS = {'dve_mel': _dve_mel}
