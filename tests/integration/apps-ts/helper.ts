export function doubled(n: number): number {
  return 2 * n;
}
