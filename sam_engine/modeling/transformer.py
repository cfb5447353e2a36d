"""The two-way transformer: tokens attend to the image and the image to the tokens."""

from collections.abc import Callable

from torch import Tensor, nn

from sam_engine.modeling.attention import attention
from sam_engine.modeling.common import MLPBlock


class TwoWayTransformer(nn.Module):
    """A stack of `TwoWayAttentionBlock` and one last attention of the tokens to the image."""

    def __init__(
        self,
        depth: int,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(
                embedding_dim, num_heads, mlp_dim, activation, attention_downsample_rate, i == 0
            )
            for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def forward(
        self,
        image_embedding: Tensor,
        image_pe: Tensor,
        point_embedding: Tensor,
        image_prior: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Let tokens and image read each other.

        Args:
            image_embedding: (B, C, h, w).
            image_pe: Positional encoding of the same shape.
            point_embedding: Tokens, (B, N, C); they serve as their own positional encoding.
            image_prior: (B, h * w, C) added to the image once it has read its tokens: until then, prompts on
                one image share it.

        Returns:
            Tokens (B, N, C) and image (B, h * w, C).
        """
        keys = image_embedding.flatten(2).transpose(1, 2)
        key_pe = image_pe.flatten(2).transpose(1, 2)
        queries = point_embedding
        for i, layer in enumerate(self.layers):
            prior = {} if image_prior is None or i else {"key_prior": image_prior}
            queries, keys = layer(
                queries=queries, keys=keys, query_pe=point_embedding, key_pe=key_pe, **prior
            )
        attended = self.final_attn_token_to_image(q=queries + point_embedding, k=keys + key_pe, v=keys)
        queries = self.norm_final_attn(queries + attended)
        return queries, keys


class TwoWayAttentionBlock(nn.Module):
    """Self-attention of tokens, tokens to image, perceptron on tokens, image to tokens."""

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int = 2048,
        activation: Callable[[], nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
        skip_first_layer_pe: bool = False,
    ) -> None:
        """Make one; ``skip_first_layer_pe`` in the first of a stack: tokens are their own positions there."""
        super().__init__()
        self.self_attn = Attention(embedding_dim, num_heads)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLPBlock(embedding_dim, mlp_dim, activation)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.skip_first_layer_pe = skip_first_layer_pe

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        query_pe: Tensor,
        key_pe: Tensor,
        key_prior: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Map tokens (B, N, C) and image (B, h * w, C) to the same shapes.

        ``key_prior`` is added to the image.
        """
        if self.skip_first_layer_pe:  # no positions and no residual
            queries = self.self_attn(q=queries, k=queries, v=queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q=q, k=q, v=queries)
        queries = self.norm1(queries)
        attended = self.cross_attn_token_to_image(q=queries + query_pe, k=keys + key_pe, v=keys)
        queries = self.norm2(queries + attended)
        queries = self.norm3(queries + self.mlp(queries))
        attended = self.cross_attn_image_to_token(q=keys + key_pe, k=queries + query_pe, v=queries)
        if key_prior is not None:
            attended = attended + key_prior
        keys = self.norm4(keys + attended)
        return queries, keys


class Attention(nn.Module):
    """Multi-head attention whose heads may work in fewer channels than their input has."""

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.internal_dim = internal_dim = embedding_dim // downsample_rate
        self.num_heads = num_heads
        if internal_dim % num_heads:
            raise ValueError(f"num_heads is {num_heads}; wanted is a divisor of {internal_dim} channels")
        self.q_proj = nn.Linear(embedding_dim, internal_dim)
        self.k_proj = nn.Linear(embedding_dim, internal_dim)
        self.v_proj = nn.Linear(embedding_dim, internal_dim)
        self.out_proj = nn.Linear(internal_dim, embedding_dim)

    def _separate_heads(self, x: Tensor, num_heads: int) -> Tensor:
        """Map (B, N, H * c) to (B, H, N, c)."""
        batch, num_tokens, channels = x.shape
        return x.view(batch, num_tokens, num_heads, channels // num_heads).transpose(1, 2)

    def _recombine_heads(self, x: Tensor) -> Tensor:
        """Map (B, H, N, c) to (B, N, H * c)."""
        return x.transpose(1, 2).flatten(2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Map queries (B, N, C), keys and values (B, K, C) to (B, N, C)."""
        queries, keys, values = (
            self._separate_heads(projection(x), self.num_heads)
            for projection, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        y = self._recombine_heads(attention(queries, keys, values))
        z: Tensor = self.out_proj(y)
        return z
