"""Position and heading of a photo inside an aerial tile, by a small head on frozen patch tokens or by search."""

from gengeo_hf.pose.head import PRIORS, PoseConfig, PoseHead, heads_of
from gengeo_hf.pose.posterior import Poses, Posterior

__all__ = ["PRIORS", "PoseConfig", "PoseHead", "Poses", "Posterior", "heads_of"]
