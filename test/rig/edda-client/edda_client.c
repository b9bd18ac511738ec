// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * A dmaengine client for the rig: drives every channel of the kernel's own dw-edma-pcie driver. dmatest cannot (no
 * memory-to-memory copy: one end is always the device). Per pair of channels: scattered buffers of odd offsets and
 * lengths to device memory (MEM_TO_DEV, the engine's read channel), back into other buffers (DEV_TO_MEM, its write
 * channel), compare. Loads, tests, says "edda-client: PASS" or "FAIL: ..." in the kernel log, and stays loaded.
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/dmaengine.h>
#include <linux/io.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

static int entries = 200;
module_param(entries, int, 0444);
MODULE_PARM_DESC(entries, "elements of a list; the driver cuts them into chunks of 84");
static int rounds = 5;
module_param(rounds, int, 0444);
static int unreachable = 1;
module_param(unreachable, int, 0444);
MODULE_PARM_DESC(unreachable, "last, read from an address that nobody has: the driver must see an abort");

#define DATA_OFFSET 0x800000
#define DATA_STEP 0x100000
#define TIMEOUT (30 * HZ)
#define NOWHERE 0x7f00000000ULL

struct side {
	struct dma_chan *chan;
	struct sg_table sg;
	struct page **pages;
	struct completion done;
	enum dma_transfer_direction dir;
};

struct pair {
	struct side out, in;
	dma_addr_t device;
	u64 bytes;
};

static struct pair *pairs;
static int npairs;

static bool is_edda(struct dma_chan *chan, void *arg)
{
	enum dma_transfer_direction *dir = arg;
	struct dma_slave_caps caps;
	struct device *dev = chan->device->dev;

	if (!dev || !dev_is_pci(dev) || to_pci_dev(dev)->device != 0xedda)
		return false;
	return !dma_get_slave_caps(chan, &caps) && (caps.directions & BIT(*dir));
}

static struct dma_chan *claim(enum dma_transfer_direction dir)
{
	dma_cap_mask_t mask;

	dma_cap_zero(mask);
	dma_cap_set(DMA_SLAVE, mask);
	return dma_request_channel(mask, is_edda, &dir);
}

/* lengths and offsets that are multiples of nothing */
static unsigned int offset_of(int i)
{
	return (i * 37) % 61;
}

static unsigned int length_of(int i)
{
	return 1 + (i * 1009) % 3989;
}

static u8 pattern(u32 seed, u32 i)
{
	u32 x = seed * 2654435761u + i * 40503u;

	return x >> 16 ^ x >> 7;
}

static int make_side(struct side *s)
{
	struct scatterlist *sg;
	int i;

	init_completion(&s->done);
	s->pages = kcalloc(entries, sizeof(*s->pages), GFP_KERNEL);
	if (!s->pages || sg_alloc_table(&s->sg, entries, GFP_KERNEL))
		return -ENOMEM;
	for_each_sg(s->sg.sgl, sg, entries, i) {
		s->pages[i] = alloc_page(GFP_KERNEL);
		if (!s->pages[i])
			return -ENOMEM;
		sg_set_page(sg, s->pages[i], length_of(i), offset_of(i));
	}
	return 0;
}

static void fill_side(struct side *s, u32 seed, bool zero)
{
	u32 n = 0, k;
	int i;

	for (i = 0; i < entries; i++) {
		u8 *p = page_address(s->pages[i]);

		memset(p, 0x5a, PAGE_SIZE);
		for (k = 0; k < length_of(i); k++, n++)
			p[offset_of(i) + k] = zero ? 0 : pattern(seed, n);
	}
}

/* returns 0, or 1 + the number of the first wrong byte; bytes around the pieces must be as fill_side() left them */
static u32 check_side(struct side *s, u32 seed)
{
	u32 n = 0, k;
	int i;

	for (i = 0; i < entries; i++) {
		u8 *p = page_address(s->pages[i]);

		for (k = 0; k < offset_of(i); k++)
			if (p[k] != 0x5a)
				return 1 + n;
		for (k = 0; k < length_of(i); k++, n++)
			if (p[offset_of(i) + k] != pattern(seed, n))
				return 1 + n;
		for (k = offset_of(i) + length_of(i); k < PAGE_SIZE; k++)
			if (p[k] != 0x5a)
				return 1 + n;
	}
	return 0;
}

static void landed(void *arg)
{
	complete(arg);
}

static int start(struct side *s, dma_addr_t device)
{
	struct dma_slave_config config = { .direction = s->dir };
	struct dma_async_tx_descriptor *tx;
	bool out = s->dir == DMA_MEM_TO_DEV;
	int mapped;

	mapped = dma_map_sg(s->chan->device->dev, s->sg.sgl, entries, out ? DMA_TO_DEVICE : DMA_FROM_DEVICE);
	if (mapped <= 0)
		return -EIO;
	if (out)
		config.dst_addr = device;
	else
		config.src_addr = device;
	if (dmaengine_slave_config(s->chan, &config))
		return -EINVAL;
	tx = dmaengine_prep_slave_sg(s->chan, s->sg.sgl, mapped, s->dir, DMA_PREP_INTERRUPT | DMA_CTRL_ACK);
	if (!tx)
		return -ENOMEM;
	reinit_completion(&s->done);
	tx->callback = landed;
	tx->callback_param = &s->done;
	if (dma_submit_error(dmaengine_submit(tx)))
		return -EIO;
	dma_async_issue_pending(s->chan);
	return 0;
}

static int finish(struct side *s)
{
	bool in_time = wait_for_completion_timeout(&s->done, TIMEOUT);

	dma_unmap_sg(s->chan->device->dev, s->sg.sgl, entries,
		     s->dir == DMA_MEM_TO_DEV ? DMA_TO_DEVICE : DMA_FROM_DEVICE);
	return in_time ? 0 : -ETIMEDOUT;
}

/* one list each way on every pair, all pairs at once */
static int one_round(int round)
{
	ktime_t began = ktime_get();
	int i, rc;
	u32 bad;

	for (i = 0; i < npairs; i++) {
		fill_side(&pairs[i].out, round * 16 + i, false);
		fill_side(&pairs[i].in, 0, true);
	}
	for (i = 0; i < npairs; i++) {
		rc = start(&pairs[i].out, pairs[i].device);
		if (rc) {
			pr_err("edda-client: FAIL: pair %d cannot start to the device: %d\n", i, rc);
			return rc;
		}
	}
	for (i = 0; i < npairs; i++)
		if (finish(&pairs[i].out)) {
			pr_err("edda-client: FAIL: pair %d: no completion to the device\n", i);
			return -ETIMEDOUT;
		}
	for (i = 0; i < npairs; i++) {
		rc = start(&pairs[i].in, pairs[i].device);
		if (rc) {
			pr_err("edda-client: FAIL: pair %d cannot start from the device: %d\n", i, rc);
			return rc;
		}
	}
	for (i = 0; i < npairs; i++)
		if (finish(&pairs[i].in)) {
			pr_err("edda-client: FAIL: pair %d: no completion from the device\n", i);
			return -ETIMEDOUT;
		}
	for (i = 0; i < npairs; i++) {
		bad = check_side(&pairs[i].in, round * 16 + i);
		if (bad) {
			pr_err("edda-client: FAIL: pair %d round %d: byte %u is wrong\n", i, round, bad - 1);
			return -EILSEQ;
		}
		pr_info("edda-client: round %d pair %d: %d elements, %llu bytes each way, %lld us\n", round, i, entries,
			pairs[i].bytes, ktime_us_delta(ktime_get(), began));
	}
	return 0;
}

/* the CPU must find in device memory what the DMA put there */
static int look(struct pair *p)
{
	void __iomem *at = ioremap(p->device, 4096);
	u32 seed = (rounds - 1) * 16 + (p - pairs);
	u32 i;

	if (!at)
		return -ENOMEM;
	for (i = 0; i < 4096; i++)
		if (readb(at + i) != pattern(seed, i))
			break;
	iounmap(at);
	if (i < 4096)
		pr_err("edda-client: FAIL: the CPU reads a wrong byte %u from device memory\n", i);
	return i < 4096 ? -EILSEQ : 0;
}

static int abort_one(struct pair *p)
{
	struct dma_slave_config config = { .direction = DMA_MEM_TO_DEV, .dst_addr = p->device };
	struct dma_async_tx_descriptor *tx;
	struct scatterlist sg;

	sg_init_table(&sg, 1);
	sg_dma_address(&sg) = NOWHERE;
	sg_dma_len(&sg) = 64;
	if (dmaengine_slave_config(p->out.chan, &config))
		return -EINVAL;
	tx = dmaengine_prep_slave_sg(p->out.chan, &sg, 1, DMA_MEM_TO_DEV, DMA_PREP_INTERRUPT | DMA_CTRL_ACK);
	if (!tx)
		return -ENOMEM;
	reinit_completion(&p->out.done);
	tx->callback = landed;
	tx->callback_param = &p->out.done;
	dmaengine_submit(tx);
	dma_async_issue_pending(p->out.chan);
	if (!wait_for_completion_timeout(&p->out.done, TIMEOUT)) {
		pr_err("edda-client: FAIL: no abort interrupt\n");
		return -ETIMEDOUT;
	}
	pr_info("edda-client: abort reported\n");
	return 0;
}

static int run(void)
{
	int i, rc;

	for (i = 0; i < rounds; i++) {
		rc = one_round(i);
		if (rc)
			return rc;
	}
	for (i = 0; i < npairs; i++) {
		rc = look(&pairs[i]);
		if (rc)
			return rc;
	}
	if (unreachable) {
		rc = abort_one(&pairs[0]);
		/* and the channel works again afterwards */
		if (!rc)
			rc = one_round(rounds);
		if (rc)
			return rc;
	}
	pr_info("edda-client: PASS: %d pairs, %d rounds, %d elements a list\n", npairs, rounds, entries);
	return 0;
}

static void drop_side(struct side *s)
{
	int i;

	if (s->chan)
		dma_release_channel(s->chan);
	sg_free_table(&s->sg);
	for (i = 0; s->pages && i < entries; i++)
		if (s->pages[i])
			__free_page(s->pages[i]);
	kfree(s->pages);
}

static void drop_all(void)
{
	int i;

	for (i = 0; i < npairs; i++) {
		drop_side(&pairs[i].out);
		drop_side(&pairs[i].in);
	}
	kfree(pairs);
}

static void __exit edda_exit(void)
{
	drop_all();
}

static int __init edda_init(void)
{
	struct dma_chan *out, *in;
	int i, rc = 0;

	pairs = kcalloc(8, sizeof(*pairs), GFP_KERNEL);
	if (!pairs)
		return -ENOMEM;
	while (npairs < 8 && (out = claim(DMA_MEM_TO_DEV))) {
		struct pair *p = &pairs[npairs];

		in = claim(DMA_DEV_TO_MEM);
		if (!in) {
			dma_release_channel(out);
			break;
		}
		p->out.chan = out;
		p->out.dir = DMA_MEM_TO_DEV;
		p->in.chan = in;
		p->in.dir = DMA_DEV_TO_MEM;
		p->device = pci_bus_address(to_pci_dev(out->device->dev), 2) + DATA_OFFSET + npairs * DATA_STEP;
		npairs++;
		if (make_side(&p->out) || make_side(&p->in)) {
			rc = -ENOMEM;
			break;
		}
		for (i = 0; i < entries; i++)
			p->bytes += length_of(i);
		if (p->bytes > DATA_STEP) {
			rc = -EINVAL;
			break;
		}
	}
	if (!npairs)
		rc = -ENODEV;
	if (!rc)
		rc = run();
	if (npairs == 0)
		pr_err("edda-client: FAIL: no channel of a 16c3:edda function\n");
	if (rc)
		drop_all();
	return rc;
}

module_init(edda_init);
module_exit(edda_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("Client of the dw-edma driver for epnic's rig");
