//! Children of a search over Llama models are ordinary checkpoints.

use model::Params;
use model::llama::{Llama, LlamaConfig};
use tensor::Tensor;
use train::phases::evomerge::{Genome, Space, decode, llama_of, llama_parents};

fn llama(seed: f32) -> Llama {
    let config = LlamaConfig {
        vocab: 12,
        width: 8,
        layers: 3,
        heads: 2,
        kv_heads: 1,
        head_width: 4,
        ffn: 6,
        eps: 1e-5,
        rope_theta: 10_000.0,
        tied: true,
        positions: 32,
        bos: None,
        eos: Vec::new(),
    };
    let tensor = |(i, (name, dims, role)): (usize, (String, Vec<usize>, _))| {
        let n: usize = dims.iter().product();
        let value = |j: usize| ((i * 31 + j * 7) as f32 + seed).sin();
        (
            name,
            role,
            Tensor::from_vec((0..n).map(value).collect(), &dims),
        )
    };
    let parts = config.specification().into_iter().enumerate().map(tensor);
    let params = Params::from_tensors(parts.collect());
    Llama { config, params }
}

#[test]
fn scales_go_into_what_writes_to_the_stream_and_layers_that_do_not_run_are_left_out() {
    let base = llama(0.0);
    let parents = llama_parents(&base, &[1.0, 2.0, 3.0].map(llama));
    let mut genome = Genome::parent(1, &parents);
    genome.bits |= 1;
    genome.included = vec![true, false, true];
    genome.scales = vec![0.5, 1.0, 1.0];
    assert_eq!(Space::of(&parents).blocks, 3);
    let child = llama_of(&decode(&genome, &parents), &base.config);
    assert_eq!(child.config.layers, 2);
    let parent = llama(2.0);
    let of = |model: &Llama, name: &str| model.params.get(name).to_vec();
    for (name, tensor) in child.params.iter() {
        // The third layer has moved up.
        let was = name.replace("layers.1.", "layers.2.");
        let halved =
            name.contains("layers.0.") && (name.contains("o_proj") || name.contains("down_proj"));
        let factor = if halved { 0.5 } else { 1.0 };
        let expected: Vec<f32> = of(&parent, &was).iter().map(|x| x * factor).collect();
        assert_eq!(tensor.to_vec(), expected, "{name}");
    }
}
