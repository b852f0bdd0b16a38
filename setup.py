"""talkjax: five talking-head diffusion systems on one JAX toolbox."""

from setuptools import find_packages, setup

# Required for training, generation and evaluation. launch/setup.sh installs MediaPipe separately: its last release that
# contains models pins an old NumPy that it does not need (see docs/decisions.md, 28).
CORE = [
  'absl-py',
  'av>=18',
  'clu>=0.0.12',  # the overview of the parameters
  'espeakng-loader==0.2.4',
  'etils[epath]',
  'flax>=0.12',
  'grain>=0.2.15',
  'huggingface_hub>=1.0',  # talkjax.convert --path=hf:...
  'importlib_resources',  # an undeclared dependency of tensorflow-datasets
  'jax>=0.10',
  'matplotlib',  # imported by MediaPipe
  'ml_collections>=1.0',
  'numpy>=2',
  'opencv-contrib-python-headless>=4.10,<5',  # 5 contains no cascades
  'optax>=0.2.5',
  'orbax-checkpoint>=0.11.20',
  'pillow',  # the size of a picture before it is decoded
  'protobuf>=6.31.1,<7',  # MediaPipe does not work with 7
  'safetensors',
  'scikit-image>=0.25',
  'scipy',
  'soxr',
  'tensorboardX>=2.6',
  'tensorflow-datasets>=4.9.9',
  'tqdm',
]

setup(
  name='talkjax',
  version='0.1.0',
  description='Five talking-head diffusion systems on one JAX toolbox',
  license='Apache-2.0',
  python_requires='>=3.11,<3.14',
  packages=find_packages(include=['talkjax', 'talkjax.*']),
  package_data={'talkjax.weights': ['*.safetensors', '*.json']},
  install_requires=CORE,
  extras_require={
    'test': ['hypothesis', 'librosa==0.11.0', 'onnxruntime', 'pytest>=8', 'pytest-xdist', 'ruff>=0.12'],
    'parity': ['diffusers>=0.40', 'einops', 'torch>=2.6', 'transformers>=5'],
    'cuda': ['jax[cuda12]>=0.10'],
    'tpu': ['jax[tpu]>=0.10'],
    'beam': ['apache-beam', 'mlcroissant'],
    'tts': ['coqui-tts[codec,cpu]>=0.27'],  # YourTTS, see talkjax/media/text_to_speech.py
    'onnx': ['onnxruntime'],  # evaluate --face_embedding
  },
)
