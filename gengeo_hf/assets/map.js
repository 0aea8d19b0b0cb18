"use strict";
// Draws `content` (see gengeo_hf/localization/maps.py): photos, their places, imagery, the line of a drive.
const COLOUR = {photo: "#c2410c", place: "#1f6feb"};
const GROUP_PIXELS = 26;  // photos nearer to each other on the screen are drawn as one group
const many = content.photos.length > 1;
const map = L.map("map", {zoomSnap: 0.25, maxZoom: 24});
const everything = L.latLngBounds([]), best = L.latLngBounds([]);
const list = document.getElementById("list");

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
function picture(key, text) {
  const image = element("img", "");
  image.loading = "lazy";
  image.src = content.pictures[key];
  image.alt = text;
  return image;
}
function glyph(kind, text, faint) { return element("span", `glyph ${kind}-at${faint ? " faint" : ""}`, text); }
function marker(at, kind, text, label, faint, height) {
  const icon = L.divIcon({className: "marker", html: glyph(kind, text, faint), iconSize: [30, 30]});
  const made = L.marker(at, {icon, keyboard: true, zIndexOffset: height, riseOnHover: true});
  made.on("add", () => made.getElement().setAttribute("aria-label", label));
  return made;
}
function boundsOf(points) {
  const box = L.latLngBounds([]);
  for (const point of points) {
    box.extend(point.at);
    if (point.box) box.extend(point.box);
    if (point.radius) box.extend(L.latLng(point.at).toBounds(2 * point.radius));
  }
  return box;
}
function show(box, pad) {  // a popup that opens in a flight is cut off: no animation
  if (box.isValid()) map.fitBounds(box.pad(pad), {maxZoom: 20, animate: false, paddingTopLeft: [0, 60]})  // below the buttons;
}

// ---- Ground: an online map where one was asked for, and the index's own imagery above it.
function addGround() {
  const overlays = {}, bases = {};
  if (content.tileUrl) {
    const tiles = L.tileLayer(content.tileUrl, {
      attribution: content.attribution, maxZoom: 24, maxNativeZoom: content.maxNativeZoom,
      referrerPolicy: "strict-origin-when-cross-origin",  // some servers refuse requests without a Referer
    });
    tiles.once("tileerror", () => say(location.protocol === "file:"
      ? "The background map did not load. A saved file sends no Referer, which some servers (OpenStreetMap's own among " +
        "them) require: choose a server that does not, or open this file through a local web server."
      : "The background map did not load: its server is not reached, or refuses."));
    overlays["background map"] = tiles.addTo(map);
  }
  const imagery = L.layerGroup().addTo(map);
  for (const overlay of content.overlays) {
    L.imageOverlay(content.pictures[overlay.picture], overlay.box, {alt: "aerial tile of the index"}).addTo(imagery);
    everything.extend(overlay.box);
  }
  if (content.overlays.length) overlays["imagery of the index"] = imagery;
  const probability = L.layerGroup();  // off at first
  for (const {probability: one} of content.photos.flatMap(photo => photo.points)) if (one)
    L.imageOverlay(content.pictures[one.picture], one.box, {alt: "probability of the position", zIndex: 2}).addTo(probability);
  if (probability.getLayers().length) overlays["probability of the position"] = probability;
  if (Object.keys(overlays).length) L.control.layers(bases, overlays, {collapsed: false}).addTo(map);
}
function say(text) {
  const status = element("div", "status", text);
  status.setAttribute("role", "status");
  map.getContainer().append(status);
}

// ---- Coordinates: of the cursor, of a place to copy, and as links.
function addCoordinates() {
  const read = L.control({position: "bottomleft"}), box = element("div", "cursor");
  box.title = "latitude, longitude in degrees (WGS 84)";
  const write = at => { box.textContent = `${at.lat.toFixed(6)}, ${at.wrap().lng.toFixed(6)}`; };
  read.onAdd = () => box;
  read.addTo(map);
  L.control.scale({imperial: false}).addTo(map);
  map.on("mousemove", event => write(event.latlng)).on("move", () => write(map.getCenter()));
}
function copy(text, button) {
  const area = element("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");  // the Clipboard API is closed to files and sandboxed frames
  area.remove();
  button.textContent = done ? "copied" : "select and copy by hand";
  setTimeout(() => { button.textContent = "copy"; }, 2000);
}
function links(point) {
  const [lat, lon] = [point.at[0].toFixed(6), L.latLng(point.at).wrap().lng.toFixed(6)];
  const row = element("div", "links"), button = element("button", "copy", "copy");
  button.setAttribute("aria-label", `copy ${lat}, ${lon}`);
  button.onclick = () => copy(`${lat}, ${lon}`, button);
  const targets = [["open in a map app", `geo:${lat},${lon}`],
                   ["OpenStreetMap", `https://www.openstreetmap.org/?mlat=${lat}&mlon=${lon}#map=19/${lat}/${lon}`]];
  row.append(button, ...targets.map(([text, address]) => {
    const link = element("a", "", text);
    Object.assign(link, {href: address, target: "_blank", rel: "noopener noreferrer"});
    return link;
  }));
  return row;
}

// ---- Photos: each has a card and a marker; frames, circles and lesser places are those of the chosen photo.
let chosen = null;
function choose(photo) {
  if (chosen === photo) return;
  if (chosen) { chosen.card.classList.remove("chosen"); chosen.details.remove(); }
  chosen = photo;
  photo.card.classList.add("chosen");
  if (!photo.details) photo.details = detailsOf(photo);
  photo.details.addTo(map);
  group();
  reveal(photo.card);
}
// Scrolls the list alone: scrollIntoView would also scroll a page that holds this map in a frame.
function reveal(card) {
  const seen = list.getBoundingClientRect(), box = card.getBoundingClientRect();
  if (box.top < seen.top) list.scrollTop += box.top - seen.top;
  else if (box.bottom > seen.bottom) list.scrollTop += Math.min(box.bottom - seen.bottom, box.top - seen.top);
}
function kindOf(point) { return point.kind === "found" ? (point.rank === 1 ? "photo" : "place") : "exif"; }
function titleOf(photo, point) {
  if (point.kind === "found") return `Place ${point.rank} of ${photo.name}`;
  return `${point.kind === "exif" ? "EXIF position" : "Known position"} of ${photo.name}`;
}
function textOf(photo, point) { return kindOf(point) === "photo" ? (many ? String(photo.number) : "1") : point.rank ? String(point.rank) : ""; }
function detailsOf(photo) {
  const layers = L.layerGroup();
  for (const point of photo.points) {
    const style = {color: COLOUR[kindOf(point)] || "#2b8a3e", interactive: false, fill: false};
    const halo = {...style, color: "#fff", opacity: 0.9};
    const wide = point.rank === 1 ? 3 : 1.5;
    if (point.box) layers.addLayer(L.rectangle(point.box, {...halo, weight: wide + 2})).addLayer(L.rectangle(point.box, {...style, weight: wide}));
    if (point.radius) {
      const dash = {radius: point.radius, dashArray: "7 6"};
      layers.addLayer(L.circle(point.at, {...halo, ...dash, dashArray: null, weight: 4, opacity: 0.7})).addLayer(L.circle(point.at, {...style, ...dash, weight: 2.5}));
    }
    if (point.view.length) layers.addLayer(L.polygon(point.view, {...style, fill: true, fillOpacity: 0.45, weight: 1}));
    if (kindOf(point) !== "photo") layers.addLayer(markerOf(photo, point));
  }
  return layers;
}
function markerOf(photo, point) {
  const kind = kindOf(point), height = {photo: 1000, exif: 500, place: 0}[kind];
  if (point.marker) return point.marker;
  point.marker = marker(point.at, kind, textOf(photo, point), `${titleOf(photo, point)}: ${point.label}`, !photo.known && kind !== "exif", height);
  point.marker.bindPopup(() => {
    const popup = element("div", "", `${titleOf(photo, point)}: ${point.label}`);
    popup.append(links(point));
    if (point.picture) popup.append(picture(point.picture, `aerial tile of place ${point.rank}`));
    return popup;
  }, {maxWidth: 240});
  point.marker.on("click keypress", () => choose(photo));
  return point.marker;
}
function addCard(photo) {
  photo.card = element("section", "photo");
  const name = element("button", "name");
  if (many) name.append(glyph("photo", String(photo.number), !photo.known));
  name.append(element("span", "", photo.name));
  name.onclick = () => { choose(photo); show(boundsOf(photo.points), 0.2); };
  photo.card.append(name);
  if (photo.picture) photo.card.append(picture(photo.picture, `photo ${photo.name}`));
  if (photo.note) photo.card.append(element("div", "note", photo.note));
  for (const point of photo.points) {
    const kind = kindOf(point);
    const line = element("button", `place ${{photo: "first", place: "lesser", exif: "exif"}[kind]}`), text = element("span");
    text.append(point.label.split(" · ")[0], element("small", "", point.label.split(" · ").slice(1).join(" · ")));
    line.append(glyph(kind, textOf(photo, point), !photo.known && kind !== "exif"), text);
    line.setAttribute("aria-label", `${titleOf(photo, point)}: ${point.label}`);
    line.onclick = () => { choose(photo); show(boundsOf([point]), 0.5); ungroup(photo); markerOf(photo, point).openPopup(); };
    photo.card.append(line);
  }
  list.append(photo.card);
}

// ---- Groups: photos whose markers would cover each other are one marker with their number.
const front = L.layerGroup().addTo(map);
function bestOf(photo) { return photo.points.find(point => kindOf(point) === "photo"); }
function ungroup(photo) { if (bestOf(photo)) front.addLayer(markerOf(photo, bestOf(photo))); }
function group() {
  front.clearLayers();
  const groups = [], cells = new Map();
  for (const photo of content.photos) {
    const point = bestOf(photo);
    if (!point) continue;
    const at = map.project(point.at, map.getZoom());
    const x = Math.floor(at.x / GROUP_PIXELS), y = Math.floor(at.y / GROUP_PIXELS);
    let found = null;
    for (let dx = -1; dx <= 1 && !found; dx++) for (let dy = -1; dy <= 1 && !found; dy++)
      found = (cells.get(`${x + dx},${y + dy}`) || []).find(other => other.at.distanceTo(at) < GROUP_PIXELS);
    if (found && photo !== chosen) { found.photos.push(photo); continue; }
    const made = {at, photos: [photo]};
    groups.push(made);
    if (photo !== chosen) cells.set(`${x},${y}`, [...(cells.get(`${x},${y}`) || []), made]);
  }
  for (const {photos} of groups) {
    if (photos.length === 1) {
      const point = bestOf(photos[0]), made = markerOf(photos[0], point).addTo(front);
      made.setZIndexOffset(photos[0] === chosen ? 2000 : 1000);
      made.getElement().classList.toggle("chosen", photos[0] === chosen && many);
      continue;
    }
    const inside = L.latLngBounds(photos.map(photo => bestOf(photo).at));
    const made = marker(inside.getCenter(), "group", String(photos.length), `${photos.length} photos near here: zoom in`, false, 1500);
    made.on("click keypress", () => { if (map.getBoundsZoom(inside) > map.getZoom()) show(inside, 0.3); choose(photos[0]); });
    made.addTo(front);
  }
}

// ---- Frame of the page: legend, buttons, first view.
function addLegend() {
  const legend = document.getElementById("legend"), points = content.photos.flatMap(photo => photo.points);
  const entries = [
    ["photo", many ? "photo at its best place" : "best place", points.some(point => kindOf(point) === "photo")],
    ["place", many ? "other place of the chosen photo, by rank" : "other place, by rank", points.some(point => kindOf(point) === "place")],
    ["exif", points.some(point => point.kind === "exif") ? "EXIF position" : "known position", points.some(point => kindOf(point) === "exif")],
    ["frame", "aerial tile", points.some(point => point.box)],
    ["radius", "uncertainty (±)", points.some(point => point.radius)],
    ["cone", "direction of view", points.some(point => point.view.length)],
    ["photo", "faint: not known", content.photos.some(photo => !photo.known), true],
    ["line", "line of the drive", content.line.length > 1],
    ["group", "several photos", many],
  ];
  for (const [kind, text, wanted, faint] of entries) if (wanted) {
    const entry = element("li");
    entry.append(glyph(kind, "", faint), element("span", "", text));
    legend.append(entry);
  }
}
function addTools() {
  const control = L.control({position: "topleft"});
  control.onAdd = () => {
    const box = element("div", "tools");
    for (const [text, bounds] of [["best places", best], ["everything", everything]]) {
      const button = element("button", "", text);
      button.onclick = () => show(bounds, 0.15);
      box.append(button);
    }
    L.DomEvent.disableClickPropagation(box);
    return box;
  };
  control.addTo(map);
}
function firstView() { show(best.isValid() ? best : everything, 0.2); }

map.attributionControl.setPrefix("Leaflet");
for (const credit of content.credits) map.attributionControl.addAttribution(credit);  // escaped by the page's maker
const anywhere = content.photos.flatMap(photo => photo.points)[0];
map.setView(anywhere ? anywhere.at : [0, 0], anywhere ? 16 : 1);  // circles in metres need a map with a view
addGround();
addCoordinates();
if (content.line.length > 1) {
  L.polyline(content.line, {color: "#fff", weight: 6, opacity: 0.8, interactive: false}).addTo(map);
  L.polyline(content.line, {color: COLOUR.photo, weight: 3, interactive: false, className: "drive"}).addTo(map);
  best.extend(content.line);
}
const known = content.photos.filter(photo => photo.known && bestOf(photo));
for (const photo of known.length ? known : content.photos) {
  const point = bestOf(photo);
  if (point && content.line.length < 2) best.extend(boundsOf([point]));
}
content.photos.forEach((photo, row) => {
  photo.number = row + 1;
  everything.extend(boundsOf(photo.points));
  addCard(photo);
});
addLegend();
if (everything.isValid()) addTools();
if (content.photos.length) choose(content.photos[0]);
else list.style.display = "none";
map.invalidateSize({animate: false, pan: false});  // the cards have taken their room
firstView();
group();
map.on("zoomend", group);
if (!map.getSize().x) {  // in a frame that is not shown yet nothing fits: again when it has a size
  const shown = new ResizeObserver(() => {
    map.invalidateSize({animate: false});
    if (map.getSize().x) { shown.disconnect(); firstView(); }
  });
  shown.observe(document.getElementById("map"));
}
