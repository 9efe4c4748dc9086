"""An image captioner in Keras, for use without Beam, cloud storage or Arrow.

    from model import load_captioner, load_image

    captioner = load_captioner()
    image = load_image(open("dog.jpg", "rb").read(), captioner.config.input_size)
    print(captioner.caption(image.pixels[None])[0][0].text)

Importing this module does not import TensorFlow; `load_captioner` does.
"""

from model.bundle import DEFAULT_BUNDLE as DEFAULT_BUNDLE
from model.bundle import BundleError as BundleError
from model.bundle import check_bundle as check_bundle
from model.bundle import load_captioner as load_captioner
from model.bundle import load_config as load_config
from model.caption import Caption as Caption
from model.config import CaptionerConfig as CaptionerConfig
from model.config import Decoding as Decoding
from model.image_captioner import ImageCaptioner as ImageCaptioner
from model.picture_captioner import CaptionerError as CaptionerError
from model.picture_captioner import CaptionFailure as CaptionFailure
from model.picture_captioner import EndRun as EndRun
from model.picture_captioner import Picture as Picture
from model.picture_captioner import PictureCaptioner as PictureCaptioner
from model.preprocessing import ImageError as ImageError
from model.preprocessing import load_image as load_image
from model.preprocessing import pad_batch as pad_batch
