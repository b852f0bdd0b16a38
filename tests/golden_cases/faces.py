"""Golden cases of the faces room: the published landmarks and masks."""

from talkjax.faces import landmarks, mask


def _dve_mask(case):
  size = tuple(case.config['image_size'])
  computed = {}
  for name, mesh in case.inputs.items():
    index = name.removeprefix('mesh_')
    points = landmarks.mesh_to_68(mesh, size)
    computed |= {
      f'landmarks_{index}': points,
      f'square_{index}': mask.square_mask(points, size),
      f'contour_{index}': mask.contour_mask(points, size),
    }
  return computed


CHECKS = {'dve_mask': _dve_mask}
