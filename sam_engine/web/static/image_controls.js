// What the page of an image can be told: sliders that filter masks, and switches of what is drawn.

export const SLIDERS = {
  area: { label: "area, min %", max: 100, step: 0.1, of: (mask, pixels) => (100 * mask.area) / pixels, exponent: 3 },
  predicted_iou: { label: "predicted IoU", max: 1.1, step: 0.005, of: (mask) => mask.predicted_iou, exponent: 1 },
  stability_score: { label: "stability", max: 1, step: 0.005, of: (mask) => mask.stability_score, exponent: 1 },
};

/** Name -> label, key, and whether it is on at first. */
export const SWITCHES = {
  fill: ["fill", "f", true], outlines: ["outlines", "l", true], boxes: ["boxes", "b", false],
  points: ["prompts", "p", false], uncovered: ["uncovered", "u", false], beside: ["original beside", "o", false],
};
