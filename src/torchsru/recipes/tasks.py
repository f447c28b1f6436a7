"""The tasks that a recipe can be of. The registry is closed: a saved run names one of these."""

from torchsru.recipes.base import Recipe
from torchsru.recipes.classification import ClassificationRecipe
from torchsru.recipes.denoising import DenoisingRecipe
from torchsru.recipes.language_model import LanguageModelRecipe
from torchsru.recipes.reading import ReadingRecipe
from torchsru.recipes.recognition import RecognitionRecipe
from torchsru.recipes.translation import TranslationRecipe

KINDS = (
    LanguageModelRecipe,
    ClassificationRecipe,
    ReadingRecipe,
    TranslationRecipe,
    RecognitionRecipe,
    DenoisingRecipe,
)
TASKS: dict[str, type[Recipe]] = {kind.task: kind for kind in KINDS}
