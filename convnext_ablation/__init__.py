"""From ResNet-50 to ConvNeXt-T one component at a time: timm models, and studies of what each is worth.

Importing the package registers its networks with timm: `timm.create_model("model_iv")`.
"""

from timm.data import add_img_extensions

from convnext_ablation import zoo
from convnext_ablation.components import Components
from convnext_ablation.errors import UserError
from convnext_ablation.network import ResNetToConvNeXt
from convnext_ablation.version import __version__

__all__ = ["Components", "ResNetToConvNeXt", "UserError", "__version__", "zoo"]

# what `convnext-ablation prepare --format webp` writes; timm's readers leave it out unless told
add_img_extensions(".webp")
