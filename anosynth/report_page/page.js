"use strict";
for (const section of document.querySelectorAll("[data-gallery]")) {
  const boxes = [...section.querySelectorAll("input[type=checkbox]")];
  const samples = [...section.querySelectorAll(".sample")];
  const count = section.querySelector("[data-count]");
  const apply = () => {
    const chosen = (kind) => new Set(boxes.filter((box) => box.name === kind && box.checked).map((box) => box.value));
    const pools = chosen("pool"), verdicts = chosen("verdict");
    let shown = 0;
    for (const sample of samples) {
      sample.hidden = !(pools.has(sample.dataset.pool) && verdicts.has(sample.dataset.verdict));
      shown += sample.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${samples.length} samples shown`;
  };
  for (const box of boxes) box.addEventListener("change", apply);
  apply();
}
