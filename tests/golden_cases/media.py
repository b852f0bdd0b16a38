"""Golden cases of the audio front ends: mel spectrograms and cepstra."""

import numpy as np

from talkjax.media import mel, mfcc


def _dve_mel(case):
  num_frames = case.config['num_frames']
  mel_db = mel.log_mel(case.inputs['waveform'], num_frames)
  return {
    'mel_db': mel_db,
    'audio': mel.frame_windows(mel_db, case.inputs['frames']),
    'fitted_length': np.int32(num_frames * mel.SAMPLES_PER_FRAME - 1),
  }


def _syncnet_mfcc(case):
  waveform, rate = case.inputs['waveform'], case.config['samplerate']
  bands, energy = mfcc.filter_banks(waveform, rate)
  cepstra = mfcc.mfcc(waveform, rate)
  return {'mfcc': cepstra, 'windows': mfcc.windows(cepstra)[:, None], 'fbank': bands, 'energy': energy}


def _wav2lip_mel(case):
  spectrogram = mel.wav2lip_mel(case.inputs['waveform'])
  chunks, starts = mel.wav2lip_windows(spectrogram, case.config['fps'])
  newer = mel.wav2lip_mel(case.inputs['waveform'], 'constant')
  return {'mel': spectrogram, 'chunks': chunks, 'chunk_starts': starts.astype(np.int32), 'mel_zero_pad': newer}


CHECKS = {'dve_mel': _dve_mel, 'syncnet_mfcc': _syncnet_mfcc, 'wav2lip_mel': _wav2lip_mel}
