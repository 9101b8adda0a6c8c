"use strict";
// As much of an <audio> element as wavesurfer.js uses, for sounds that start together in one
// AudioContext, each with a gain of its own. The first one is the whole song.
class Mixer extends EventTarget {
  constructor(context, buffers) {
    super();
    Object.assign(this, { context, buffers, sources: [], paused: true, place: 0, began: 0 });
    Object.assign(this, { src: "", currentSrc: "", playbackRate: 1, volume: 1, muted: false,
      duration: buffers[0].duration, seeking: false, error: null });
    this.gains = buffers.map((_, number) => {
      const gain = new GainNode(context, { gain: number ? 0 : 1 });
      gain.connect(context.destination);
      return gain;
    });
  }
  get currentTime() {
    const since = this.paused ? 0 : Math.max(0, this.context.currentTime - this.began);
    return Math.min(this.duration, this.place + since);
  }
  set currentTime(seconds) {
    const plays = !this.paused;
    this.stop();
    this.place = Math.min(this.duration, Math.max(0, seconds));
    if (plays) this.start();
    for (const event of ["seeking", "seeked", "timeupdate"]) this.dispatchEvent(new Event(event));
  }
  start() {
    this.paused = false;
    this.began = this.context.currentTime + 0.02;
    this.sources = this.buffers.map((buffer, number) => {
      const source = new AudioBufferSourceNode(this.context, { buffer });
      source.connect(this.gains[number]);
      source.start(this.began, this.place);
      return source;
    });
    this.sources[0].onended = () => {
      this.pause();
      this.dispatchEvent(new Event("ended"));
    };
  }
  stop() {
    this.place = this.currentTime;
    this.paused = true;
    for (const source of this.sources) { source.onended = null; source.stop(); }
    this.sources = [];
  }
  async play() {
    if (!this.paused) return;
    if (this.place >= this.duration) this.place = 0;
    await this.context.resume();
    this.start();
    this.dispatchEvent(new Event("play"));
  }
  pause() {
    if (this.paused) return;
    this.stop();
    this.dispatchEvent(new Event("pause"));
  }
  mix(levels) {
    levels.forEach((level, number) => {
      this.gains[number].gain.setTargetAtTime(level, this.context.currentTime, 0.01);
    });
  }
  load() {} removeAttribute() {} canPlayType() { return "probably"; }
}

const element = (id) => document.getElementById(id);
const facts = JSON.parse(element("facts").textContent);

async function openSound(block) {
  const data = await fetch(`data:${block.dataset.type};base64,${block.textContent.trim()}`);
  block.remove();
  return data.blob();
}

async function openMedia() {
  const blobs = await Promise.all([...document.querySelectorAll(".sound")].map(openSound));
  if (blobs.length === 1) return new Audio(URL.createObjectURL(blobs[0]));
  const context = new AudioContext({ sampleRate: facts.sampleRate });
  const data = await Promise.all(blobs.map((blob) => blob.arrayBuffer()));
  return new Mixer(context, await Promise.all(data.map((bytes) => context.decodeAudioData(bytes))));
}

function asTime(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(1).padStart(4, "0")}`;
}

function connectTracks(mixer) {
  const buttons = [...document.querySelectorAll("button[data-stem]")];
  const isPressed = (button) => button.getAttribute("aria-pressed") === "true";
  const pressed = (kind) => buttons
    .filter((button) => button.dataset.kind === kind && isPressed(button))
    .map((button) => Number(button.dataset.stem));
  for (const button of buttons) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(!isPressed(button)));
      const [solo, mute] = [pressed("solo"), pressed("mute")];
      const isWhole = !solo.length && !mute.length;
      mixer.mix(mixer.gains.map((_, number) => {
        if (!number || isWhole) return Number(!number && isWhole);
        return Number(!mute.includes(number) && (!solo.length || solo.includes(number)));
      }));
    });
  }
}

async function main() {
  const media = await openMedia();
  const colours = { waveColor: "#5b9bd5", progressColor: "#2f6ea8", cursorColor: "#d9480f" };
  const player = WaveSurfer.create({
    container: element("chart"), media, peaks: [facts.peaks], duration: facts.seconds,
    height: 96, cursorWidth: 2, dragToSeek: true, ...colours,
  });
  const wrapper = player.getWrapper();
  wrapper.append(element("chart-style").content.cloneNode(true), ...element("drawings").children);
  const [play, time, position, zoom] = ["play", "time", "position", "zoom"].map(element);
  const show = () => {
    const now = player.getCurrentTime();
    time.textContent = `${asTime(now)} / ${asTime(facts.seconds)}`;
    position.value = now;
    position.setAttribute("aria-valuetext", `${asTime(now)} of ${asTime(facts.seconds)}`);
  };
  for (const event of ["play", "pause", "finish"]) {
    player.on(event, () => { play.textContent = player.isPlaying() ? "Pause" : "Play"; });
  }
  for (const event of ["timeupdate", "seeking", "ready"]) player.on(event, show);
  play.addEventListener("click", () => player.playPause());
  position.addEventListener("input", () => player.setTime(Number(position.value)));
  zoom.addEventListener("input", () => {
    player.zoom(zoom.value > 0 ? 2 ** zoom.value * player.getWidth() / facts.seconds : 0);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== " " || event.target.closest("button, input, a")) return;
    event.preventDefault();
    player.playPause();
  });
  if (media instanceof Mixer) connectTracks(media);
  show();
  for (const part of document.querySelectorAll(".needs-script")) part.hidden = false;
  window.player = player; // for the console
}

main().catch((error) => {
  element("problem").textContent = `The player cannot be started: ${error.message}`;
  element("problem").hidden = false;
  throw error;
});
