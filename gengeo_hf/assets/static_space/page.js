// Encode a photo with onnxruntime-web and compare it with the descriptors of tiles. The photo is not sent to a server.
import * as ort from './ort/ort.wasm.min.mjs';

const TOP = 5;
const status = document.getElementById('status');

// Pillow's antialiased bicubic resize of one axis: for each new pixel the index of the first old pixel, and weights.
function axisWeights(from, to) {
  const scale = Math.max(from / to, 1), support = 2 * scale, rows = [];
  const cubic = (x) => {
    x = Math.abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  };
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * from / to;
    const first = Math.max(0, Math.floor(centre - support + 0.5)), last = Math.min(from, Math.floor(centre + support + 0.5));
    const weights = [];
    for (let j = first; j < last; j++) weights.push(cubic((j + 0.5 - centre) / scale));
    const sum = weights.reduce((a, b) => a + b, 0);
    rows.push([first, weights.map((w) => w / sum)]);
  }
  return rows;
}

const level = (x) => Math.min(255, Math.max(0, Math.round(x)));

// RGBA pixels (height, width) as normalised values (3, H, W), first across and then down, rounded as Pillow does.
function pixelValues(data, width, height, model) {
  const W = model.width, H = model.height, across = axisWeights(width, W), down = axisWeights(height, H);
  const middle = new Uint8ClampedArray(height * W * 3), values = new Float32Array(3 * H * W);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < W; x++) {
      const [first, weights] = across[x];
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += weights[k] * data[(y * width + first + k) * 4 + c];
        middle[(y * W + x) * 3 + c] = level(sum);
      }
    }
  }
  for (let y = 0; y < H; y++) {
    const [first, weights] = down[y];
    for (let x = 0; x < W; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += weights[k] * middle[((first + k) * W + x) * 3 + c];
        values[(c * H + y) * W + x] = (level(sum) / 255 - model.mean[c]) / model.std[c];
      }
    }
  }
  return values;
}

async function fetched(name, as) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} cannot be loaded (${answer.status})`);
  return answer[as]();
}

// Photos of many megapixels are first drawn at four times the model's size, which is enough for the resize after it.
async function readPhoto(file, model) {
  const image = await createImageBitmap(file);
  const shrink = Math.min(1, Math.max(4 * model.width / image.width, 4 * model.height / image.height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(image.width * shrink));
  canvas.height = Math.max(1, Math.round(image.height * shrink));
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.imageSmoothingQuality = 'high';
  context.fillStyle = 'rgb(124, 116, 104)'; // background of transparent pixels, as in training
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  return pixelValues(data, canvas.width, canvas.height, model);
}

// Tiles sorted by cosine similarity; their descriptors are int8 with one factor for each tile.
function search(descriptor, codes, factors, dim) {
  const scores = [];
  for (let row = 0; row < factors.length; row++) {
    let sum = 0;
    for (let k = 0; k < dim; k++) sum += descriptor[k] * codes[row * dim + k];
    scores.push([sum * factors[row], row]);
  }
  return scores.sort((a, b) => b[0] - a[0] || a[1] - b[1]).slice(0, TOP);
}

function show(places, tiles) {
  const body = document.getElementById('places');
  body.replaceChildren();
  places.forEach(([score, row], rank) => {
    const tableRow = body.insertRow();
    const position = `${tiles.lat[row].toFixed(6)}, ${tiles.lon[row].toFixed(6)}`;
    for (const text of [rank + 1, position, score.toFixed(3), tiles.id[row]]) tableRow.insertCell().textContent = text;
  });
  body.parentElement.hidden = false;
}

async function start() {
  ort.env.wasm.wasmPaths = new URL('./ort/', import.meta.url).href;
  ort.env.wasm.numThreads = 1; // more threads need headers that a plain file server does not send
  const [model, tiles, codes, factors, graph] = await Promise.all([
    fetched('model.json', 'json'), fetched('tiles.json', 'json'), fetched('codes.bin', 'arrayBuffer'),
    fetched('factors.bin', 'arrayBuffer'), fetched('model.onnx', 'arrayBuffer')]);
  const session = await ort.InferenceSession.create(graph, { executionProviders: ['wasm'] });
  const rows = new Int8Array(codes), scale = new Float32Array(factors);
  document.getElementById('caveat').textContent = model.caveat;
  document.getElementById('rights').textContent = model.rights;
  document.getElementById('photo').addEventListener('change', async (event) => {
    const file = event.target.files[0];
    if (!file) return;
    status.textContent = 'Encoding ...';
    try {
      const started = performance.now();
      const pixels = new ort.Tensor('float32', await readPhoto(file, model), [1, 3, model.height, model.width]);
      const found = (await session.run({ pixel_values: pixels })).descriptor.data;
      const length = Math.hypot(...found.slice(0, model.dim));
      const descriptor = Float32Array.from(found.slice(0, model.dim), (x) => x / length);
      show(search(descriptor, rows, scale, model.dim), tiles);
      const seconds = (performance.now() - started) / 1000;
      status.textContent = `${seconds.toFixed(1)} seconds for this photo`;
      document.body.dataset.seconds = seconds;
      document.body.dataset.descriptor = JSON.stringify([...descriptor]);
      const shown = document.getElementById('shown');
      URL.revokeObjectURL(shown.src);
      shown.src = URL.createObjectURL(file);
      shown.hidden = false;
    } catch (error) {
      status.textContent = `${file.name} cannot be read as a photo: ${error.message}`;
    }
  });
  status.textContent = `Ready: ${scale.length} tiles, ${model.megabytes.toFixed(1)} MB loaded`;
}

start().catch((error) => { status.textContent = `The page cannot start: ${error.message}`; });
