"use strict";
// A timeline, a slider below it for keyboards, and the frame of the window that is chosen. Without this script the page
// still shows every picture, at its end.
for (const timeline of document.querySelectorAll(".timeline")) {
  const bars = [...timeline.querySelectorAll("rect[data-start]")];
  if (!bars.length) continue;
  const slider = timeline.querySelector("input");
  const viewer = timeline.querySelector(".viewer");
  const said = viewer.querySelector("p");
  const strip = timeline.querySelector(".scroll");
  const [plain, heat] = viewer.querySelectorAll("img");

  const show = (number) => {
    const bar = bars[number];
    bars.forEach((other) => other.classList.toggle("chosen", other === bar));
    slider.value = number;
    const box = bar.getBoundingClientRect();
    const seen = strip.getBoundingClientRect(); // in a narrow window the timeline is wider than it
    if (box.left < seen.left || box.right > seen.right) strip.scrollLeft += (box.left + box.right - seen.left - seen.right) / 2;
    slider.setAttribute("aria-valuetext", bar.dataset.says);
    said.textContent = bar.dataset.says;
    const kept = document.getElementById(`moment-${timeline.dataset.person}-${bar.dataset.start}`);
    viewer.classList.toggle("empty", !kept);
    if (kept) {
      const pictures = kept.querySelectorAll("img");
      plain.src = pictures[0].src;
      heat.src = pictures[1].src;
      plain.alt = pictures[0].alt;
      heat.alt = pictures[1].alt;
    }
  };

  timeline.querySelector("svg").addEventListener("click", (event) => {
    const away = (bar) => {
      const box = bar.getBoundingClientRect();
      return Math.abs((box.left + box.right) / 2 - event.clientX);
    };
    show(bars.reduce((best, bar, number) => (away(bar) < away(bars[best]) ? number : best), 0));
    slider.focus({ preventScroll: true });
  });
  slider.addEventListener("input", () => show(Number(slider.value)));
  slider.hidden = viewer.hidden = false;
  show(bars.findIndex((bar) => "first" in bar.dataset));
}
